"""Every file of a checkpoint's folder, as plain data and tensors."""
