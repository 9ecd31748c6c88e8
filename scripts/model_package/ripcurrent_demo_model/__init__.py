"""A folder with one GGUF file, SmolLM2-135M-Instruct, which ripcurrent finds by this package's name."""
