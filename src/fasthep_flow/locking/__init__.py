"""What a workflow uses, to the very bytes: written down, compared, and brought in beforehand."""
