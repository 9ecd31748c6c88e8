"""What plugs into the tools that people train and evaluate with; each module needs that tool, and names its extra."""
