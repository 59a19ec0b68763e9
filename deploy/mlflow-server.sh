#!/usr/bin/env bash
# MLflow for a team: PostgreSQL behind it, a login for everybody, on the loopback interface alone.
#
# Read from the environment, and refused in one line where missing:
#   MLFLOW_BACKEND_STORE_URI        postgresql://USER@HOST:PORT/NAME, for runs and logins; the
#                                   password in PGPASSWORD or ~/.pgpass, because this URI is also
#                                   written to a file
#   MLFLOW_ARTIFACTS_DESTINATION    s3://BUCKET/FOLDER or a folder
#   MLFLOW_AUTH_ADMIN_PASSWORD      of the user admin, 12 characters or more; counts at the first
#                                   start on a database, later ones leave the login as it is
#   MLFLOW_FLASK_SERVER_SECRET_KEY  a long random text, the same at every start
# and where wanted:
#   MLFLOW_PORT                     default 5000
#   MLFLOW_WORKERS                  processes that answer, default 2
#   MLFLOW_SERVER_ALLOWED_HOSTS     names in the browser's address line, comma-separated; default
#                                   those of this machine, as tunnels have them
#   MLFLOW_SERVER_FOLDER            for the file that configures logins, default ~/.mlflow-server
set -euo pipefail

refuse() {
    echo "mlflow-server.sh: $1" >&2
    exit 2
}

for name in MLFLOW_BACKEND_STORE_URI MLFLOW_ARTIFACTS_DESTINATION MLFLOW_AUTH_ADMIN_PASSWORD \
    MLFLOW_FLASK_SERVER_SECRET_KEY; do
    [[ -n "${!name:-}" ]] || refuse "$name is not set in the environment"
done
[[ "$MLFLOW_BACKEND_STORE_URI" == postgresql://* ]] ||
    refuse "MLFLOW_BACKEND_STORE_URI must be postgresql://USER@HOST:PORT/NAME"
[[ ! "$MLFLOW_BACKEND_STORE_URI" =~ ^postgresql://[^/@]*:.*@|[?\&]password= ]] ||
    refuse "MLFLOW_BACKEND_STORE_URI holds a password; give it in PGPASSWORD or ~/.pgpass"
((${#MLFLOW_AUTH_ADMIN_PASSWORD} >= 12)) ||
    refuse "MLFLOW_AUTH_ADMIN_PASSWORD is too short: 12 characters or more"

umask 077
folder=${MLFLOW_SERVER_FOLDER:-$HOME/.mlflow-server}
mkdir -p "$folder"
# Everybody who can log in may read every study; changing one is left to whoever made it. A login
# is remembered for a minute, because checking a password takes as long as many an answer.
cat >"$folder/basic_auth.ini" <<INI
[mlflow]
default_permission = READ
database_uri = ${MLFLOW_BACKEND_STORE_URI//%/%%}
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
INI

export MLFLOW_AUTH_CONFIG_PATH="$folder/basic_auth.ini"
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false # it would run what users send
export MLFLOW_DISABLE_TELEMETRY=true
exec mlflow server \
    --app-name basic-auth \
    --host 127.0.0.1 \
    --port "${MLFLOW_PORT:-5000}" \
    --workers "${MLFLOW_WORKERS:-2}" \
    --allowed-hosts "${MLFLOW_SERVER_ALLOWED_HOSTS:-127.0.0.1:*,localhost:*}"
