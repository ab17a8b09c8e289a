-- A role for mail servers: it reads who may log in now and send as which domain, and nothing else. Run it as the owner of the bot's database.
CREATE ROLE smtp_passdb_reader LOGIN PASSWORD 'change-me';
GRANT SELECT ON smtp_passdb, smtp_passdb_previous, smtp_sender_logins TO smtp_passdb_reader;
