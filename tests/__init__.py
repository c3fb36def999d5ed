"""The specification, room by room as `alchemist_core`; a package, so that no dependency's own `tests` comes before it."""
