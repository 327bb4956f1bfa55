//! Common names and places, combined at random: no combination is meant to be anyone.

pub(super) const GIVEN_FEMALE: &[&str] = &[
    "Mary", "Patricia", "Linda", "Elizabeth", "Susan", "Jessica", "Karen", "Nancy", "Sofía", "Margaret", "Ashley",
    "Emily", "Donna", "Michelle", "Carol", "Amanda", "Melissa", "Deborah", "Stephanie", "Rebecca", "Zoë", "Cynthia",
    "Kathleen", "Amy", "Angela", "Aisha", "Mei", "Priya", "Fatima", "Ingrid", "Chiara", "Noor", "Hana", "Leilani",
];

pub(super) const GIVEN_MALE: &[&str] = &[
    "James", "Robert", "John", "Michael", "David", "William", "Richard", "Joseph", "Thomas", "Christopher", "Daniel",
    "Matthew", "Anthony", "Mark", "Steven", "Andrew", "José", "Kenneth", "Kevin", "Brian", "Timothy", "Ronald",
    "Jason", "Edward", "Ryan", "Omar", "Wei", "Arjun", "Björn", "Luca", "Mateo", "Kofi", "Haruto", "Tāne",
];

pub(super) const FAMILY: &[&str] = &[
    "Smith", "Johnson", "Williams", "Brown", "Jones", "Garcia", "Miller", "Davis", "Rodriguez", "Martinez",
    "Hernandez", "Lopez", "Gonzalez", "Wilson", "Anderson", "Thomas", "Taylor", "Moore", "Jackson", "Martin", "Lee",
    "Perez", "Thompson", "White", "Harris", "Sanchez", "Clark", "Ramirez", "Lewis", "Robinson", "Walker", "Young",
    "Allen", "King", "Wright", "Scott", "Torres", "Nguyễn", "Hill", "Flores", "Green", "Adams", "Nelson", "Baker",
    "Hall", "Rivera", "Campbell", "Mitchell", "Carter", "Roberts", "O'Connor", "Müller", "Kowalski", "Okafor",
    "Patel", "Kim", "Yamamoto", "Haddad", "Ivanova", "Lindqvist", "van der Berg", "Da Silva", "Castañeda", "Tran",
];

pub(super) const STREETS: &[&str] = &[
    "Alder Street", "Birch Avenue", "Cedar Lane", "Dogwood Drive", "Elm Street", "Foxglove Way", "Hawthorn Road",
    "Juniper Court", "Laurel Street", "Maple Avenue", "Oak Street", "Poplar Place", "Sycamore Lane", "Willow Road",
];

pub(super) const PLACES: &[(&str, &str, &str)] = &[
    ("Springfield", "IL", "62701"), ("Riverside", "CA", "92501"), ("Franklin", "TN", "37064"),
    ("Greenville", "SC", "29601"), ("Bristol", "CT", "06010"), ("Clinton", "IA", "52732"),
    ("Fairview", "OR", "97024"), ("Salem", "MA", "01970"), ("Madison", "WI", "53703"),
    ("Georgetown", "TX", "78626"), ("Arlington", "VA", "22201"), ("Ashland", "KY", "41101"),
];
