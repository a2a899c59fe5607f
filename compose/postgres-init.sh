# Run once by PostgreSQL's image, for an empty database: the farm's own role owns its database and nothing else.
# The passwords come from files, so that no list of processes shows them.
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\set password `cat /run/secrets/database_password`
CREATE ROLE farm LOGIN PASSWORD :'password';
CREATE DATABASE farm OWNER farm;
REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;
SQL
