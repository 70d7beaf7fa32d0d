"""Files that are whole or absent: artefacts, tensors, manifests, run folders, logs. It imports no other room."""
