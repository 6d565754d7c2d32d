"""Flags of an x86 ``/proc/cpuinfo`` that no program can use, so that no snapshot needs them.

Mitigations, virtualization, power and performance monitoring, and what takes the kernel's
privilege: they come and go with kernel and microcode, and a process does not notice. Source:
arch/x86/include/asm/cpufeatures.h of Linux 6.18.
"""

from __future__ import annotations

_TEXT = """
# mitigations and what they rest on
amd_ibpb amd_ibrs amd_ssbd amd_stibp arch_capabilities autoibrs bhi_ctrl btc_no clear_bhb_hw
clear_bhb_loop entry_ibpb flush_l1d ibpb ibpb_brtype ibpb_ret ibrs ibrs_enhanced intel_stibp
its_no kaiser mba md_clear null_seg overflow_recov psfd pti retpoline retpoline_amd rsb_ctxsw
rtm_always_abort sbpb spec_ctrl srbds_ctrl srso_no srso_user_kernel_no ssbd ssbd_no stibp
stibp_always_on succor tsx_force_abort unret use_ibpb verw_clear virt_ssbd
# virtualization
avic decodeassists ept ept_5level ept_ad extapic flexpriority flushbyasid hypervisor ibs lbrv npt
nrip_save osvw pausefilter pfthreshold sev sev_es sev_snp skinit sme svm svm_lock tpr_shadow
tsc_scale v_spec_ctrl v_vmsave_vmload vgif vmcb_clean vmmcall vmx vnmi vpid wdt x2avic
# power, heat, scheduling hints and monitoring
abmc acpi amd_lbr_v2 amd_ppin aperfmperf apic arat arch_lbr arch_perfmon art bmec bpext bts
bus_lock_detect cat_l2 cat_l3 cdp_l2 cdp_l3 constant_tsc cpb cppc cpuid cpuid_fault cqm cqm_llc
cqm_mbm_local cqm_mbm_total cqm_occup_llc ds_cpl dtes64 dtherm dts eist epb est extd_apicid hfi
hw_pstate hwp hwp_act_window hwp_epp hwp_notify hwp_pkg_req ibs_l3miss ida intel_ppin intel_pt
monitor nonstop_tsc nonstop_tsc_s3 nopl pdcm pdpe1gb pebs perfctr_core perfctr_l2 perfctr_llc
perfctr_nb perfmon_v2 pln proc_feedback pts ptsc rdt_a rep_good ring3mwait smba split_lock_detect
splitlock_detect tm tm2 topoext tsc_adjust tsc_deadline_timer tsc_known_freq x2apic xtopology
# the kernel's own
dca de fdp_excptn_only fsrm_k global ibt invlpgb invpcid invpcid_single la57 lam lm mca mce mp
mtrr nx ospke pae pat pcid pconfig pge pse pse36 sdbg sgx sgx_lc smap smep smx tce tlb_flush tme
umip vme wbnoinvd xsaves xtpr
"""

PRIVATE = frozenset(
    flag for line in _TEXT.splitlines() if not line.startswith("#") for flag in line.split()
)
"""Names as ``/proc/cpuinfo`` has them."""
