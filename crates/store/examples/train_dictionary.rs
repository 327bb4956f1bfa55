//! Trains the compression dictionary: `train_dictionary OUTPUT DIRECTORY...`.
//!
//! Every `.json` file in the directories that is a resource of ordinary size becomes one sample, in the compact form
//! in which the store compresses it, once with and once without its narrative. Use only public, fictional
//! resources: the dictionary is kept in the repository. Never train over an existing file of another format
//! number, since the bodies written with it would become unreadable.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::{error::Error, fs, path::PathBuf};

const DICTIONARY_BYTES: usize = 60 << 10;
const SAMPLE_BYTES_MAX: usize = 24 << 10;
/// Conformance resources would crowd out clinical ones.
const LEFT_OUT: [&str; 9] = [
    "SearchParameter",
    "ValueSet",
    "CodeSystem",
    "StructureDefinition",
    "ConceptMap",
    "OperationDefinition",
    "CapabilityStatement",
    "CompartmentDefinition",
    "Bundle",
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let output = PathBuf::from(arguments.next().ok_or("usage: train_dictionary OUTPUT DIRECTORY...")?);
    let mut files = Vec::new();
    for directory in arguments {
        files.extend(
            fs::read_dir(directory)?
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<Vec<_>, _>>()?,
        );
    }
    files.sort();
    let mut samples = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "json")) {
        let Ok(mut resource) = serde_json::from_slice::<serde_json::Value>(&fs::read(file)?) else {
            continue;
        };
        let Some(members) = resource.as_object_mut() else { continue };
        let named = members.get("resourceType").and_then(|name| name.as_str());
        if named.is_none_or(|name| LEFT_OUT.contains(&name)) {
            continue;
        }
        for sample in [serde_json::to_vec(members)?, {
            members.shift_remove("text");
            serde_json::to_vec(members)?
        }] {
            if sample.len() <= SAMPLE_BYTES_MAX {
                samples.push(sample);
            }
        }
    }
    fs::write(output, zstd::dict::from_samples(&samples, DICTIONARY_BYTES)?)?;
    Ok(())
}
