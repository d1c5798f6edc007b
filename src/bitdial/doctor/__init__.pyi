from bitdial.doctor.findings import Finding as Finding
from bitdial.doctor.trials import examine as examine
