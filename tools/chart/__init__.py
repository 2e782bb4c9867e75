"""What of the Helm chart is generated: values.schema.json and README.md."""
