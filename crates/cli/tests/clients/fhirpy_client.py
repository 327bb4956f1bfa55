"""PyPI fhirpy against a running stack: a resource's life, a search, a count."""

import os

from fhirpy import SyncFHIRClient
from fhirpy.base.exceptions import ResourceNotFound

client = SyncFHIRClient(
    os.environ["WARD_BASE"],
    authorization=f"Bearer {os.environ['WARD_TOKEN']}",
    requests_config={"verify": os.environ["WARD_TRUST"]},
    # Its `count` sends a parameter of another server's, besides `_count=0`.
    extra_headers={"Prefer": "handling=lenient"},
)

patient = client.resource("Patient", name=[{"family": "Py", "given": ["Fhir"]}], birthDate="1980-02-29")
patient.save()
assert patient.id

patient["name"][0]["family"] = "Python"
patient.save()
again = client.reference("Patient", patient.id).to_resource()
assert again["name"][0]["family"] == "Python"
assert again["meta"]["versionId"] == "2"

found = client.resources("Patient").search(family="python").fetch()
assert [one.id for one in found] == [patient.id]
assert client.resources("Patient").count() == 6

observation = client.resource(
    "Observation", status="final", code={"text": "pulse"}, subject=patient.to_reference()
)
observation.save()
mine = client.resources("Observation").search(patient=patient.id).fetch_all()
assert [one.id for one in mine] == [observation.id]

patient.delete()
try:
    client.reference("Patient", patient.id).to_resource()
except ResourceNotFound:
    print("ok")
except Exception as error:  # fhirpy has no class of its own for 410
    assert "deleted" in str(error) or "410" in str(error), error
    print("ok")
