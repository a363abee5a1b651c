"""The analytic models themselves: cohorts, features and labels, one package per model."""
