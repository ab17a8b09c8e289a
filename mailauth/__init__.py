"""Answers mail servers: Dovecot's authentication protocol and Postfix's policy delegation, from the same store."""
