"""The mechanics of training, for any model: devices, observations on the device, the loop, checkpoints."""
