"""Providers: clients of model APIs."""
