#!/usr/bin/env bash
# Prints the SQL that makes the user `study`, with the password of $PGPASSWORD, and its databases
# `ledgers` and `mlflow`, where they are not there; for psql as the superuser.
set -euo pipefail

[[ ${PGPASSWORD:-} =~ ^[[:alnum:]]+$ ]] || {
    echo "databases.sh: PGPASSWORD is not set, or holds more than letters and digits" >&2
    exit 2
}
cat <<SQL
SELECT 'CREATE ROLE study LOGIN'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'study') \gexec
ALTER ROLE study PASSWORD '$PGPASSWORD';
SELECT format('CREATE DATABASE %I OWNER study', name) FROM (VALUES ('ledgers'), ('mlflow')) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) \gexec
REVOKE CONNECT ON DATABASE ledgers, mlflow FROM PUBLIC;
ALTER SYSTEM SET listen_addresses = '127.0.0.1';
SQL
