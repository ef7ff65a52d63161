"""The published systems, one file each; a class here is what a workflow's ``system.class`` names."""
