"""The mechanics of training, of no particular model: devices, observations on the device, the loop, checkpoints."""
