"""The edges. Each adapter translates foreign errors once, here, into those of ``service.domain.errors``."""
