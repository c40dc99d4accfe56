"""Invokes functions with boto3: a list of calls, as JSON, in; a list of what came back out."""

import base64
import json
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError


def invoke(client, call):
    try:
        answer = client.invoke(**call)
    except ClientError as error:
        said, meta = error.response["Error"], error.response["ResponseMetadata"]
        return {"exception": type(error).__name__, "code": said["Code"], "status": meta["HTTPStatusCode"]}
    outcome = {key: answer[key] for key in ("StatusCode", "FunctionError", "ExecutedVersion") if key in answer}
    payload = answer["Payload"].read().decode()
    outcome["Payload"] = json.loads(payload) if payload else None
    if "LogResult" in answer:
        outcome["LogResult"] = base64.b64decode(answer["LogResult"]).decode()
    return outcome


endpoint, secret = sys.argv[1:]
client = boto3.client(
    "lambda",
    endpoint_url=endpoint,
    region_name="local",
    aws_access_key_id="stratos",
    aws_secret_access_key=secret,
    config=Config(retries={"max_attempts": 0}),
)
json.dump([invoke(client, call) for call in json.load(sys.stdin)], sys.stdout)
