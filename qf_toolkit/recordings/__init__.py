"""A recording becomes a Session, a folder of Sessions is a Store, and windows around trials are cut from a Store."""
