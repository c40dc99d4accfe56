from stratos import on_restore


@on_restore
def hook():
    raise IndexError("hook")


def handler(event, context):
    pass
