"""What operators and the cluster see: probes, metrics, the API and the page. Receives functions; imports no sibling."""
