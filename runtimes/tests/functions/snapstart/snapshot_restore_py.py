"""The functions of AWS's package of this name, in its stead."""

_before, _after = [], []


def register_before_snapshot(hook, *args, **named):
    _before.append((hook, args, named))
    return hook


def register_after_restore(hook, *args, **named):
    _after.append((hook, args, named))
    return hook


def get_before_snapshot():
    return _before


def get_after_restore():
    return _after
