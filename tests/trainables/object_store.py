"""An S3 server on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


@contextmanager
def serving() -> Iterator[str]:
    """The URI of a folder in a bucket; its credentials are in the environment meanwhile."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    with patch.dict(os.environ, keys):
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="studies")
        query = f"region=us-east-1&scheme=http&endpoint_override={host}%3A{port}"
        yield f"s3://studies/of/a/team?{query}"
    server.stop()
