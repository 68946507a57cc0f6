-- CREATE DATABASE … TEMPLATE copies a database with the oids of its tables: only its own oid tells
-- it from the original. Where the tables stand in the database that they were in when this was
-- applied, homes stay as they were, and with them the resume tokens of watches.
ALTER TABLE signing ADD COLUMN database oid;
UPDATE signing
   SET database = (SELECT oid FROM pg_database WHERE datname = current_database());

CREATE OR REPLACE FUNCTION signing_home() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat_ws('/', system_identifier, signing.tableoid,
                     substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
                     nullif(pg_database.oid, signing.database))
      FROM signing, pg_control_system(), pg_database
     WHERE datname = current_database()
$$;
