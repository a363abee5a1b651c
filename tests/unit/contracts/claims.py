"""A contract with every feature in it, small enough to read, that tests change as they need."""

from __future__ import annotations

from collections.abc import Callable

from concord.contracts.model import Contract

Load = Callable[[str], Contract]

CODE_LISTS = """\
race: {white: White, black: Black, unknown: Not reported}
"""
AGENCIES = """\
hub: office
secretariats: {labor: Labor}
agencies:
  dua: {name: Unemployment, secretariat: labor, mou_since: 2018-11-01, coordinator: Director}
  office: {name: Office, secretariat: labor, mou_since: 2018-11-01, coordinator: Council}
"""
CLAIMS = """\
apiVersion: v3.2.0
kind: DataContract
id: claims
name: Weekly claims
version: 1.0.0
status: active
description: {purpose: Weekly claims., usage: Counting.}
team:
  name: Data services
slaProperties:
  - {property: retention, value: 7, unit: y}
customProperties:
  - {property: agency, value: dua}
  - {property: calendar, value: week}
  - {property: quarantineLimit, value: 0.02}
schema:
  - name: claims
    description: One row per weekly claim.
    customProperties:
      - property: format
        value: {kind: csv, encoding: windows-1252, delimiter: "|"}
      - {property: loadPolicy, value: upsert}
      - {property: controlTotals, value: [amount]}
      - property: subjects
        value:
          - role: claimant
            key: [ssn]
            identifiers:
              ssn: ssn
              given_name: first_name
              race: race_code
              phones: [phone]
          - role: case
            kind: entity
            key: [case_id]
      - property: derived
        value:
          - name: filed_year
            type: int
            expression: year(filed_on)
            description: Year of filing.
            identifierRole: quasi
            classification: confidential
    relationships:
      - {from: claims.employer_id, to: employers.employer_id}
    quality:
      - {metric: rowCount, mustBeGreaterThan: 0}
      - type: custom
        name: benefitWithinMaximum
        engine: concord
        implementation:
          condition: amount <= 1033
          columns: [amount]
          message: the weekly benefit is above the maximum
    properties:
      - name: claim_id
        physicalName: claimId
        logicalType: string
        physicalType: string
        primaryKey: true
        classification: restricted
        customProperties: [{property: identifierRole, value: none}]
      - name: ssn
        logicalType: string
        physicalType: string
        logicalTypeOptions: {pattern: '\\A\\d{9}\\z', maxLength: 9}
        classification: restricted
        customProperties: [{property: identifierRole, value: direct}]
      - name: first_name
        logicalType: string
        physicalType: string
        classification: restricted
        customProperties: [{property: identifierRole, value: direct}]
      - name: phone
        logicalType: string
        physicalType: string
        classification: restricted
        customProperties: [{property: identifierRole, value: direct}]
      - name: case_id
        logicalType: string
        physicalType: string
        classification: restricted
        customProperties: [{property: identifierRole, value: none}]
      - name: employer_id
        logicalType: string
        physicalType: string
        classification: confidential
        customProperties: [{property: identifierRole, value: none}]
        quality:
          - {metric: nullValues, mustBeLessThan: 5, unit: percent, severity: warning}
      - name: amount
        logicalType: number
        physicalType: decimal(10,2)
        logicalTypeOptions: {minimum: 0, maximum: 5000}
        classification: confidential
        customProperties: [{property: identifierRole, value: sensitive}]
      - name: filed_on
        logicalType: date
        physicalType: date
        required: true
        logicalTypeOptions: {format: yyyy-MM-dd, minimum: 1990-01-01}
        classification: confidential
        customProperties:
          - {property: identifierRole, value: none}
          - {property: dateFormats, value: [MM/dd/yyyy]}
      - name: active
        logicalType: boolean
        physicalType: boolean
        classification: internal
        customProperties:
          - {property: identifierRole, value: none}
          - {property: booleans, value: {"Y": true, "N": false}}
      - name: race_code
        logicalType: string
        physicalType: string
        classification: confidential
        enum: [{value: "1", label: White}, {value: "2", label: Black}]
        customProperties:
          - {property: identifierRole, value: quasi}
          - property: harmonise
            value: {to: race, column: race, map: {"1": white, "2": black}}
  - name: employers
    description: One row per employer.
    customProperties:
      - property: format
        value:
          kind: fixed_width
          record_length: 20
          trailer: {prefix: T, rows: [2, 6]}
      - {property: loadPolicy, value: full_refresh}
    properties:
      - name: employer_id
        logicalType: string
        physicalType: string
        primaryKey: true
        classification: confidential
        customProperties:
          - {property: identifierRole, value: none}
          - {property: position, value: [1, 8]}
      - name: workers
        logicalType: integer
        physicalType: int
        unique: true
        classification: internal
        customProperties:
          - {property: identifierRole, value: none}
          - {property: position, value: [9, 6]}
"""


def changed(old: str, new: str, text: str = CLAIMS) -> str:
    """The contract with one piece replaced; the piece must be there."""
    assert old in text, old
    return text.replace(old, new, 1)


def line_of(piece: str, text: str) -> int:
    """The line, from 1, on which the piece starts."""
    assert piece in text, piece
    return text[: text.index(piece)].count("\n") + 1
