// npm fhirclient (the SMART client of JavaScript) against a running stack: requests, references, pages, writes.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const { default: FHIR } = await import(createRequire(`${process.env.WARD_MODULES}/`).resolve("fhirclient"));

const client = FHIR({ url: "https://app.test/", headers: {} }, {}).client({
  serverUrl: process.env.WARD_BASE,
  tokenResponse: { access_token: process.env.WARD_TOKEN, token_type: "Bearer" },
});

const create = (resource) => client.create(resource);
const practitioner = await create({ resourceType: "Practitioner", name: [{ family: "Doctor" }] });
const patient = await create({
  resourceType: "Patient",
  name: [{ family: "Smart", given: ["Fhir"] }],
  generalPractitioner: [{ reference: `Practitioner/${practitioner.id}` }],
});
for (let number = 0; number < 3; number += 1) {
  await create({
    resourceType: "Observation",
    status: "final",
    code: { coding: [{ system: "http://loinc.org", code: "8867-4" }] },
    subject: { reference: `Patient/${patient.id}` },
    valueQuantity: { value: 60 + number, unit: "/min" },
  });
}
const withDoctor = await client.request(`Patient/${patient.id}`, { resolveReferences: ["generalPractitioner.0"], graph: true });
assert.equal(withDoctor.generalPractitioner[0].name[0].family, "Doctor");
const all = await client.request(`Observation?subject=Patient/${patient.id}&_count=2`, { pageLimit: 0, flat: true });
assert.equal(all.length, 3);
const values = client.byCode(all, "code")["8867-4"].map((observation) => observation.valueQuantity.value);
assert.deepEqual(values, [60, 61, 62]);
const patched = await client.patch(`Patient/${patient.id}`, [{ op: "add", path: "/gender", value: "female" }]);
assert.equal(patched.gender, "female");
patched.name[0].family = "Smarter";
const updated = await client.update(patched);
assert.equal(updated.meta.versionId, "3");
await client.delete(`Patient/${patient.id}`);
await assert.rejects(client.request(`Patient/${patient.id}`), /deleted/);
console.log("ok");
