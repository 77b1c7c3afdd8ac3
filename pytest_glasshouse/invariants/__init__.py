"""What must hold: one named function per invariant, each computing a finding from what was observed."""

from pytest_glasshouse.invariants.accounted import time_accounted_for as time_accounted_for
from pytest_glasshouse.invariants.allocation import raw_callback_completed as raw_callback_completed
from pytest_glasshouse.invariants.allocation import same_allocation as same_allocation
from pytest_glasshouse.invariants.finding import Finding as Finding
from pytest_glasshouse.invariants.judging import ALL as ALL
from pytest_glasshouse.invariants.judging import NULL as NULL
from pytest_glasshouse.invariants.judging import SEALED as SEALED
from pytest_glasshouse.invariants.judging import assert_held as assert_held
from pytest_glasshouse.invariants.judging import judge as judge
from pytest_glasshouse.invariants.lifecycle import journal_countersigned as journal_countersigned
from pytest_glasshouse.invariants.lifecycle import legs_in_order as legs_in_order
from pytest_glasshouse.invariants.lifecycle import memory_scanned_clean as memory_scanned_clean
from pytest_glasshouse.invariants.lifecycle import runtime_zeroized as runtime_zeroized
from pytest_glasshouse.invariants.trust import attestation_verified as attestation_verified
from pytest_glasshouse.invariants.trust import key_released_after_attestation as key_released_after_attestation
from pytest_glasshouse.invariants.trust import weights_from_package as weights_from_package
from pytest_glasshouse.invariants.turns import paused_leg_idle as paused_leg_idle
from pytest_glasshouse.invariants.witnessed import work_witnessed as work_witnessed
from pytest_glasshouse.invariants.work import adapter_digests_distinct as adapter_digests_distinct
from pytest_glasshouse.invariants.work import adapters_trained as adapters_trained
from pytest_glasshouse.invariants.work import losses_finite as losses_finite
from pytest_glasshouse.invariants.work import same_work as same_work
