from datetime import datetime, timezone

# Runs once per instance: connections, caches and the like belong here.
STARTED_AT = datetime.now(timezone.utc).isoformat()


def handler(event, context):
    query = event.get("queryStringParameters") or {}
    name = event.get("name") or query.get("name") or "world"
    return {"message": f"Hello, {name}!", "startedAt": STARTED_AT, "requestId": context.aws_request_id}
