"""Many runs of many models, one result file each, and the tables that are made from them."""
