"""Pages of the database: every table, view and function with columns, keys, states and comments, read from a migrated database."""

from collections.abc import Iterator, Mapping
from itertools import groupby

from sqlalchemy import Connection, text

from infra.docs.markdown import plain, table

TABLES = """
SELECT
    class.relname AS name, class.relkind::text AS kind, obj_description(class.oid, 'pg_class') AS comment,
    has_table_privilege('alchemist_reader', class.oid, 'SELECT') AS is_readable,
    pg_get_partkeydef(class.oid) AS partitioned_by
FROM pg_class AS class
WHERE class.relnamespace = 'alchemist'::regnamespace AND class.relkind IN ('r', 'p', 'v', 'm') AND NOT class.relispartition
ORDER BY class.relname
"""
COLUMNS = """
SELECT
    class.relname AS name, attribute.attname AS column_name, format_type(attribute.atttypid, attribute.atttypmod) AS type,
    attribute.attnotnull AS is_required, col_description(class.oid, attribute.attnum) AS comment
FROM pg_class AS class
INNER JOIN pg_attribute AS attribute ON class.oid = attribute.attrelid
WHERE
    class.relnamespace = 'alchemist'::regnamespace AND class.relkind IN ('r', 'p', 'v', 'm') AND NOT class.relispartition
    AND attribute.attnum > 0 AND NOT attribute.attisdropped
ORDER BY class.relname, attribute.attnum
"""
CONSTRAINTS = """
SELECT class.relname AS name, con.contype::text AS kind, pg_get_constraintdef(con.oid) AS definition
FROM pg_constraint AS con
INNER JOIN pg_class AS class ON con.conrelid = class.oid
WHERE class.relnamespace = 'alchemist'::regnamespace AND con.contype IN ('p', 'u', 'f', 'c') AND NOT class.relispartition
ORDER BY class.relname, position(con.contype::text IN 'pufc'), con.conname
"""
FUNCTIONS = """
SELECT
    proc.proname AS name, pg_get_function_arguments(proc.oid) AS arguments, pg_get_function_result(proc.oid) AS result,
    obj_description(proc.oid, 'pg_proc') AS comment, has_function_privilege('alchemist_reader', proc.oid, 'EXECUTE') AS is_callable
FROM pg_proc AS proc
WHERE proc.pronamespace = 'alchemist'::regnamespace AND proc.prokind = 'f' AND proc.prorettype <> 'trigger'::regtype
ORDER BY proc.proname
"""
KINDS = {"p": "primary key", "u": "unique", "f": "foreign key", "c": "check"}
HEAD = """# {title}

{text} All names are in the schema `alchemist`. Times are in UTC. psql shows the same comments: `\\d+ alchemist.NAME` those of
columns, `\\dt+`, `\\dv+` and `\\df+ alchemist.NAME` those of a table, a view and a function.
[How to query](../../how-to/query.md) has examples.
"""
TEXTS = {
    "tables": (
        "Tables",
        (
            "The tables of the store. Conditions named *check* list the allowed states; the database refuses others. "
            "[Views](views.md) answer most questions with less work, and change less often."
        ),
    ),
    "views": ("Views", "The views of the store: what people, dashboards and the Python interface read."),
    "functions": ("Functions", "The functions of the store."),
}


def render(connection: Connection) -> dict[str, str]:
    """Return the pages by path."""
    rows = connection.execute(text(TABLES)).mappings().all()
    columns = _by_name(connection, COLUMNS)
    constraints = _by_name(connection, CONSTRAINTS)
    tables = [part for row in rows if row["kind"] in "rp" for part in _relation(row, columns, constraints)]
    views = [part for row in rows if row["kind"] in "vm" for part in _relation(row, columns, {})]
    functions = [part for row in connection.execute(text(FUNCTIONS)).mappings() for part in _function(row)]
    bodies = {"tables": tables, "views": views, "functions": functions}
    return {
        f"reference/database/{name}.md": "\n".join([HEAD.format(title=title, text=about), *bodies[name]])
        for name, (title, about) in TEXTS.items()
    }


def _by_name(connection: Connection, query: str) -> Mapping[str, list]:
    rows = connection.execute(text(query)).mappings().all()
    return {name: list(group) for name, group in groupby(rows, key=lambda row: row["name"])}


def _relation(row: Mapping, columns: Mapping[str, list], constraints: Mapping[str, list]) -> Iterator[str]:
    yield f"## {row['name']}\n"
    yield plain(row["comment"] or "") + "\n"
    notes = [] if row["is_readable"] else ["The role `alchemist_reader` cannot read it."]
    if row["partitioned_by"]:
        notes.append(f"Partitioned by {row['partitioned_by'].lower()}.")
    if notes:
        yield " ".join(notes) + "\n"
    is_table = row["kind"] in "rp"
    head = ("column", "type", "null", "meaning") if is_table else ("column", "type", "meaning")
    yield table(head, [_column(column, is_table=is_table) for column in columns.get(row["name"], [])])
    if given := constraints.get(row["name"]):
        yield "\n".join(f"- {KINDS[one['kind']]}: `{_body(one)}`" for one in given) + "\n"


def _body(constraint: Mapping) -> str:
    definition = " ".join(constraint["definition"].split())
    for prefix in ("PRIMARY KEY ", "UNIQUE ", "FOREIGN KEY ", "CHECK "):
        definition = definition.removeprefix(prefix)
    return definition


def _column(column: Mapping, *, is_table: bool) -> tuple[str, ...]:
    meaning = plain(column["comment"] or "")
    if not is_table:
        return f"`{column['column_name']}`", column["type"], meaning
    return f"`{column['column_name']}`", column["type"], "no" if column["is_required"] else "yes", meaning


def _function(row: Mapping) -> Iterator[str]:
    yield f"## {row['name']}\n"
    yield plain(row["comment"] or "") + "\n"
    arguments = row["arguments"].replace(", ", ",\n    ")
    yield (
        f"```sql\nalchemist.{row['name']}(\n    {arguments}\n) returns {row['result']}\n```\n"
        if arguments
        else (f"```sql\nalchemist.{row['name']}() returns {row['result']}\n```\n")
    )
    if not row["is_callable"]:
        yield "The role `alchemist_reader` cannot call it.\n"
