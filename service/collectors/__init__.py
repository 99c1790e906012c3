"""What is measured: one module a type, reading its source through an adapter and turning payloads into samples."""
