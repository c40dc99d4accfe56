import platform


def handler(event, context):
    name = (event or {}).get("name", "world")
    print(f"greeting {name} (request {context.aws_request_id})")
    return {"message": f"Hello, {name}!", "runtime": f"Python {platform.python_version()}"}
