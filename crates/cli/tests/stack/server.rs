//! The whole stack with its database in a PostgreSQL server.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use ward_testkit::{Postgres, StackOptions};

use crate::stack;

/// What a stack is told so that it keeps its records in this database; the files that it names are put into `files`.
pub(crate) fn configuration(server: &Postgres, database: &str, files: &Path) -> String {
    let (authority, password) = (files.join("authority.pem"), files.join("password"));
    std::fs::write(&authority, server.authority_pem()).unwrap();
    std::fs::write(&password, format!("{}\n", server.password())).unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    format!(
        "[database]\nhosts = 'localhost'\nport = {}\nname = '{database}'\nuser = '{}'\nauthority = '{}'\n\
         password_file = '{}'\n",
        server.port(),
        server.user(),
        authority.display(),
        password.display(),
    )
}

#[test]
fn a_stack_keeps_its_records_in_a_server() {
    let server = Postgres::shared();
    let database = server.new_database();
    let files = tempfile::tempdir().unwrap();
    let configuration = configuration(&server, &database, files.path());
    let mut stack = stack(StackOptions { configuration, demo_patients: 2 });
    let count = || server.run(&database, "SELECT count(*) FROM resource").parse::<usize>().unwrap();
    let loaded = count();
    assert!(loaded > 2, "{loaded}");
    assert!(!stack.data().join("app/ward.db").exists());
    assert!(!stack.logs().contains(server.password()));
    stack.stop();
    stack.start_again();
    assert!(count() >= loaded);
}
