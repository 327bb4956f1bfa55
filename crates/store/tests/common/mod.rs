//! A store in a temporary place, on a file or a server, and resources to put in it.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::{path::Path, sync::Arc};

use serde_json::{Value, json};
use ward_base::{Clock, ResourceId, Secret, SystemClock, SystemRandom};
use ward_fhir::ResourceType;
use ward_keys::{KeyRing, WrappedKey};
use ward_kms::RootKeys;
use ward_store::{Database, Expected, ResourceKey, ServerOptions, Store, StoreError, StoreOptions, Written};
use ward_testkit::Postgres;

pub(crate) const BASE: &str = "https://ward.test/fhir/R4";

pub(crate) fn root(byte: u8) -> RootKeys {
    RootKeys::from_secret(&Secret::new(vec![byte; 32])).unwrap()
}

/// The tenant key of a directory, made when it is asked for first.
pub(crate) fn keys(directory: &Path) -> Arc<KeyRing> {
    let path = directory.join("tenant.key");
    let ring = match std::fs::read(&path) {
        Ok(wrapped) => KeyRing::open(&root(7), "test", &WrappedKey(wrapped)).unwrap(),
        Err(_) => {
            let (ring, wrapped) = KeyRing::create(&root(7), "test").unwrap();
            std::fs::write(&path, wrapped.0).unwrap();
            ring
        }
    };
    Arc::new(ring)
}

/// A store of a file in this directory.
pub(crate) fn open_file(directory: &Path) -> Store {
    let options = StoreOptions::new(directory.join("ward.db"), BASE);
    Store::open(options, keys(directory), Arc::new(SystemClock), Arc::new(SystemRandom)).unwrap()
}

/// Each test twice: as `file::…` with a SQLCipher file, as `server::…` with a PostgreSQL server.
#[macro_export]
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod file {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test($crate::common::Place::file()).await;
                }
            )*
        }
        mod server {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test($crate::common::Place::server()).await;
                }
            )*
        }
    };
}

/// Where a test's store is.
pub(crate) struct Place {
    directory: tempfile::TempDir,
    server: Option<(Arc<Postgres>, String)>,
}

impl Place {
    pub(crate) fn file() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), server: None }
    }

    pub(crate) fn server() -> Self {
        Self::on(Postgres::shared())
    }

    pub(crate) fn on(server: Arc<Postgres>) -> Self {
        let database = server.new_database();
        Self { directory: tempfile::tempdir().unwrap(), server: Some((server, database)) }
    }

    /// Another of the same kind.
    pub(crate) fn another(&self) -> Self {
        match &self.server {
            Some((server, _)) => Self::on(Arc::clone(server)),
            None => Self::file(),
        }
    }

    pub(crate) const fn is_server(&self) -> bool {
        self.server.is_some()
    }

    /// Every file of the server: tables, what it wrote ahead, its log.
    pub(crate) fn server_files(&self) -> Vec<(String, Vec<u8>)> {
        let Some((server, database)) = &self.server else { return Vec::new() };
        server.run(database, "CHECKPOINT");
        let mut files = vec![("log".to_owned(), server.log().into_bytes())];
        let mut directories = vec![server.data()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    directories.push(entry);
                } else if let Ok(bytes) = std::fs::read(&entry) {
                    files.push((entry.display().to_string(), bytes));
                }
            }
        }
        files
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn options(&self) -> StoreOptions {
        let mut options = StoreOptions::new(self.path().join("ward.db"), BASE);
        if let Some((server, database)) = &self.server {
            options.database = Database::Server(server_options(server, database));
        }
        options
    }

    pub(crate) fn keys(&self) -> Arc<KeyRing> {
        keys(self.path())
    }

    pub(crate) fn open(&self) -> Store {
        self.open_with(self.keys(), Arc::new(SystemClock)).unwrap()
    }

    pub(crate) fn open_with(&self, keys: Arc<KeyRing>, clock: Arc<dyn Clock>) -> Result<Store, StoreError> {
        Store::open(self.options(), keys, clock, Arc::new(SystemRandom))
    }

    /// Runs SQL past the store, as someone can who has the database and its key. Gives the first column of the first
    /// row.
    pub(crate) fn run(&self, statement: &str) -> String {
        match &self.server {
            Some((server, database)) => {
                server.run(database, statement).split(['|', '\n']).next().unwrap_or_default().to_owned()
            }
            None => {
                let connection = self.with_database_key();
                let mut statement = connection.prepare(statement).unwrap();
                let mut rows = statement.query([]).unwrap();
                let first = rows.next().unwrap().map(|row| row.get::<_, rusqlite::types::Value>(0).unwrap());
                match first {
                    Some(rusqlite::types::Value::Integer(number)) => number.to_string(),
                    Some(rusqlite::types::Value::Text(text)) => text,
                    _ => String::new(),
                }
            }
        }
    }

    /// The file as someone sees it who has the database key.
    pub(crate) fn with_database_key(&self) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(self.path().join("ward.db")).unwrap();
        let key: String =
            self.keys().derive("database").expose().iter().map(|byte| format!("{byte:02x}")).collect();
        let key = format!("PRAGMA key = \"x'{key}'\"; PRAGMA cipher_hmac_algorithm = HMAC_SHA256");
        connection.execute_batch(&key).unwrap();
        connection
    }

    /// Every cell of every table, as someone reads it who has the database and its key.
    pub(crate) fn cells(&self) -> Vec<(String, Vec<u8>)> {
        match &self.server {
            Some((server, database)) => server_cells(server, database),
            None => file_cells(&self.with_database_key()),
        }
    }
}

pub(crate) fn server_options(server: &Postgres, database: &str) -> ServerOptions {
    ServerOptions {
        hosts: vec![("localhost".to_owned(), server.port())],
        database: database.to_owned(),
        user: server.user().to_owned(),
        password: Some(Secret::new(server.password().into())),
        authorities_pem: server.authority_pem().to_owned(),
        client: None,
        writers: 4,
    }
}

fn file_cells(connection: &rusqlite::Connection) -> Vec<(String, Vec<u8>)> {
    use rusqlite::types::Value as Column;
    let mut statement = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    let tables = statement
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap()
        .map(Result::unwrap)
        .collect::<Vec<_>>();
    assert!(tables.len() >= 7);
    let mut cells = Vec::new();
    for table in tables {
        let mut statement = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                let bytes = match row.get::<_, Column>(column).unwrap() {
                    Column::Null => Vec::new(),
                    Column::Integer(number) => number.to_be_bytes().to_vec(),
                    Column::Real(number) => number.to_be_bytes().to_vec(),
                    Column::Text(text) => text.into_bytes(),
                    Column::Blob(bytes) => bytes,
                };
                cells.push((table.clone(), bytes));
            }
        }
    }
    cells
}

fn server_cells(server: &Postgres, database: &str) -> Vec<(String, Vec<u8>)> {
    let list = "SELECT table_name, column_name, data_type FROM information_schema.columns
         WHERE table_schema NOT IN ('pg_catalog', 'information_schema')";
    let columns = server.run(database, list);
    let mut cells = Vec::new();
    for line in columns.lines() {
        let [table, column, of]: [&str; 3] = line.split('|').collect::<Vec<_>>().try_into().unwrap();
        let bytes = match of {
            "bigint" => format!("int8send({column})"),
            "text" => format!("convert_to({column}, 'UTF8')"),
            "bytea" => column.to_owned(),
            other => panic!("a column of another type: {other}"),
        };
        for cell in server.run(database, &format!("SELECT encode({bytes}, 'hex') FROM {table}")).lines() {
            let bytes = cell
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16));
            cells.push((table.to_owned(), bytes.collect::<Result<_, _>>().unwrap()));
        }
    }
    assert!(columns.lines().count() > 30 && !cells.is_empty());
    cells
}

pub(crate) fn resource_type(name: &str) -> ResourceType {
    ResourceType::parse(name).unwrap()
}

pub(crate) fn key(name: &str, id: &str) -> ResourceKey {
    ResourceKey { resource_type: resource_type(name), id: ResourceId::parse(id).unwrap() }
}

pub(crate) fn key_of(resource: &Value) -> ResourceKey {
    key(resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap())
}

pub(crate) async fn put(store: &Store, resource: &Value) -> Result<Written, StoreError> {
    put_if(store, resource, Expected::Any).await
}

pub(crate) async fn put_if(
    store: &Store,
    resource: &Value,
    expected: Expected,
) -> Result<Written, StoreError> {
    let prepared = store.prepare(&key_of(resource), resource)?;
    store.write(move |transaction| transaction.put(&prepared, expected)).await
}

pub(crate) fn patient(id: &str, family: &str) -> Value {
    json!({"resourceType": "Patient", "id": id, "name": [{"family": family, "given": ["Ada", "Zoë"]}],
        "gender": "female", "birthDate": "1980-02-29"})
}

pub(crate) fn observation(id: &str, patient: &str, code: &str, date: &str) -> Value {
    json!({"resourceType": "Observation", "id": id, "status": "final",
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category",
            "code": "vital-signs"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": format!("Patient/{patient}")},
        "effectiveDateTime": date, "valueQuantity": {"value": 72.50, "unit": "kg"}})
}
