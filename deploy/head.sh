#!/usr/bin/env bash
# Sets up what only the head of ray-cluster.yaml has: PostgreSQL for ledgers and for MLflow, MLflow
# itself, both on the loopback interface, and their passwords, which never leave the head.
# Running it again changes nothing that is in place.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$HOME/.sam-study
mkdir -p "$folder" "$HOME/studies" "$HOME/mlflow"
chmod 700 "$folder" "$HOME/mlflow"

if [[ ! -e $folder/driver.env ]]; then
    database=$(openssl rand -hex 32)
    admin=$(openssl rand -hex 32)
    cat >"$folder/mlflow.env" <<ENV
PGPASSWORD=$database
MLFLOW_BACKEND_STORE_URI=postgresql://study@127.0.0.1:5432/mlflow
MLFLOW_ARTIFACTS_DESTINATION=$HOME/mlflow
MLFLOW_AUTH_ADMIN_PASSWORD=$admin
MLFLOW_FLASK_SERVER_SECRET_KEY=$(openssl rand -hex 32)
PATH=$HOME/venv/bin:/usr/bin:/bin
ENV
    # What `ray start` puts into the environment of every study. Written last: both are there, or
    # both are made again.
    cat >"$folder/driver.env" <<ENV
PGPASSWORD=$database
MLFLOW_TRACKING_USERNAME=admin
MLFLOW_TRACKING_PASSWORD=$admin
ENV
    chmod 600 "$folder"/*.env
fi

sudo apt-get update -q
sudo DEBIAN_FRONTEND=noninteractive apt-get install -yq postgresql
# shellcheck disable=SC1091
. "$folder/driver.env"
PGPASSWORD=$PGPASSWORD "$here/databases.sh" | sudo -u postgres psql -q -v ON_ERROR_STOP=1
sudo systemctl restart postgresql

sudo tee /etc/systemd/system/sam-study-mlflow.service >/dev/null <<UNIT
[Unit]
Description=MLflow for studies
After=postgresql.service

[Service]
User=$(id -un)
EnvironmentFile=$folder/mlflow.env
ExecStart=$here/mlflow-server.sh
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
UNIT
sudo systemctl daemon-reload
sudo systemctl enable sam-study-mlflow
sudo systemctl restart sam-study-mlflow
