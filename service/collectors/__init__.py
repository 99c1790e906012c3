"""What is measured: a package a type, which reads its source and turns payloads into samples."""
