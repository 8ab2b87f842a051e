"""PEARL (Rakelly et al. 2019): a latent variable of the task, inferred, and SAC given it."""
