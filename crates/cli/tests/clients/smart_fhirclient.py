"""PyPI fhirclient (the SMART client of Python) against a running stack: models, searches, pages."""

import os

from fhirclient import client
from fhirclient.models import humanname, observation, patient, fhirreference, codeableconcept, fhirdate
from fhirclient.models.bundle import Bundle

smart = client.FHIRClient(settings={"app_id": "ward-test", "api_base": os.environ["WARD_BASE"]})
session = smart.server.session
session.verify = os.environ["WARD_TRUST"]
session.headers["Authorization"] = f"Bearer {os.environ['WARD_TOKEN']}"

person = patient.Patient()
name = humanname.HumanName()
name.family, name.given = "Python", ["Smart"]
person.name = [name]
person.birthDate = fhirdate.FHIRDate("1980-02-29")
made = person.create(smart.server)
assert made["id"], made

again = patient.Patient.read(made["id"], smart.server)
assert again.name[0].family == "Python" and again.birthDate.isostring == "1980-02-29"
again.name[0].family = "Pythonista"
assert again.update(smart.server)["meta"]["versionId"] == "2"

for number in range(3):
    pulse = observation.Observation()
    pulse.status = "final"
    pulse.code = codeableconcept.CodeableConcept({"text": f"pulse {number}"})
    pulse.subject = fhirreference.FHIRReference({"reference": f"Patient/{made['id']}"})
    pulse.create(smart.server)

search = observation.Observation.where(struct={"subject": f"Patient/{made['id']}", "_count": "2"})
assert len(search.perform_resources(smart.server)) == 3
assert sum(1 for _ in search.perform_iter(smart.server)) == 2
found = patient.Patient.where(struct={"family": "pythonista"}).perform_resources(smart.server)
assert [one.id for one in found] == [made["id"]]
first = search.perform(smart.server)
assert isinstance(first, Bundle) and first.type == "searchset"

again.delete(smart.server)
print("ok")
