-- A role for mail servers: it reads who may log in now, and nothing else. Run it as the owner of the bot's database.
CREATE ROLE smtp_passdb_reader LOGIN PASSWORD 'change-me';
GRANT SELECT ON smtp_passdb, smtp_passdb_previous TO smtp_passdb_reader;
