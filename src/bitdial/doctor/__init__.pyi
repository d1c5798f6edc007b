from bitdial.doctor.command import examine as examine
from bitdial.doctor.findings import Finding as Finding
