"""HTTP: uploads, results, the model, health and metrics, and Swagger with no internet."""
