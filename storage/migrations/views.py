"""The views for mail servers, as they are now; a migration that changes what they read makes them anew."""

from alembic import op
from sqlalchemy import text

NOW = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
}
DOMAINS = {
    "sqlite": """json_each('["' || replace(w.domains, ' ', '","') || '"]') d""",
    "postgresql": "unnest(string_to_array(w.domains, ' ')) AS d(value)",
}
MAY_LOG_IN = "c.state = 'active' AND w.suspended_at IS NULL AND (c.expires_at IS NULL OR c.expires_at > {now})"
READERS = text("""
    SELECT CASE given.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(given.grantee)) END
    FROM pg_class, aclexplode(relacl) AS given
    WHERE pg_class.oid = to_regclass(:name) AND given.privilege_type = 'SELECT' AND given.grantee <> relowner""")
WITH_WORKSPACE = "FROM credentials c JOIN workspaces w ON w.id = c.workspace_id"
VIEWS = {
    "smtp_passdb": f"""
        SELECT c.username, '{{{{ARGON2ID}}}}' || c.password_hash AS password, w.slug AS workspace
        {WITH_WORKSPACE} WHERE {MAY_LOG_IN} AND c.password_hash IS NOT NULL""",
    "smtp_passdb_previous": f"""
        SELECT c.username, '{{{{ARGON2ID}}}}' || c.previous_hash AS password, w.slug AS workspace
        {WITH_WORKSPACE} WHERE {MAY_LOG_IN} AND c.previous_hash IS NOT NULL AND c.previous_until > {{now}}""",
    "smtp_sender_logins": f"""
        SELECT d.value AS domain, c.username {WITH_WORKSPACE} CROSS JOIN {{domains}} WHERE {MAY_LOG_IN} AND w.domains <> ''""",
}


def make(dialect: str) -> None:
    """Makes the views of this release, in place of those that are there; who may read one may read the one in its place."""
    for name, query in VIEWS.items():
        readers = op.get_bind().scalars(READERS, {"name": name}).all() if dialect == "postgresql" else []
        op.execute(f"DROP VIEW IF EXISTS {name}")
        op.execute(f"CREATE VIEW {name} AS {query.format(now=NOW[dialect], domains=DOMAINS[dialect])}")
        for reader in readers:
            op.execute(f"GRANT SELECT ON {name} TO {reader}")
