from bitdial.doctor.examination import examine as examine
from bitdial.doctor.findings import Finding as Finding
