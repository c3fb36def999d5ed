#!/usr/bin/env bash
# Make the secrets of compose.yaml that do not exist yet, each a file with random content; none is ever replaced.
#
#     infra/secrets.sh [FOLDER]        (default: infra/secrets, which git and the images ignore)
#
# Only this account can enter the folder. Others may read the files themselves, because containers mount them one by one and run as other users.
set -euo pipefail
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

random() { head -c "$1" /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
# secret NAME VALUE. Without a line break at the end, which Airflow would take for a part of the value.
secret() { test -e "$1" || { printf '%s' "$2" > "$1.new" && chmod 644 "$1.new" && mv "$1.new" "$1"; }; }
password_in() { sed -E 's#.*://[^:]*:([^@]*)@.*#\1#' "$1"; }

# Postgres: the owner changes the schema, the writer only rows, the reader reads, and Airflow has a database of its own.
secret postgres_password "$(random 24)"
secret store_owner_url "postgresql://alchemist:$(cat postgres_password)@postgres/alchemist"
secret store_writer_url "postgresql://alchemist_writer:$(random 24)@postgres/alchemist"
secret store_reader_password "$(random 24)"
secret airflow_database_url "postgresql+psycopg2://alchemist_airflow:$(random 24)@postgres/airflow"
# For `alchemist db provision`, the passwords of these two URLs alone.
secret store_writer_password "$(password_in store_writer_url)"
secret airflow_database_password "$(password_in airflow_database_url)"
# Airflow: the key of its connections, the keys that sign sessions and tokens, and the password of its first user.
secret airflow_fernet_key "$(head -c 32 /dev/urandom | base64 | tr '+/' '-_')"
secret airflow_api_secret "$(random 32)"
secret airflow_jwt_secret "$(random 32)"
secret airflow_admin_password "$(random 12)"
# The object store: one account, for the server and for its clients.
secret s3_key "$(random 10) $(random 24)"
read -r id key <<< "$(cat s3_key)"
secret s3_accounts.json \
	"{\"identities\": [{\"name\": \"alchemist\", \"credentials\": [{\"accessKey\": \"$id\", \"secretKey\": \"$key\"}], \"actions\": [\"Admin\"]}]}"
secret aws_credentials "$(printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s' "$id" "$key")"
secret grafana_password "$(random 12)"
# You write the next three: where alerts are sent, who receives notifications (empty: nobody), and the key of the server that the scorer vlm asks
# (empty: none).
secret alert_webhook_url http://127.0.0.1:9/
secret notify_url ""
secret vlm_api_key ""
echo "The secrets are in $PWD. Airflow's first user is admin, with the password in airflow_admin_password."
