"""Files that are whole or absent: artefacts, tensors, manifests, run folders, logs. Imports no other room."""
