NAME = "packaged"
