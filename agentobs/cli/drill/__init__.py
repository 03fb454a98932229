"""`agentobs drill`: a fire drill for the alerts. Each fault is made, its alert waited for, the fault taken away again.

scenarios   which fault sets off which alert, and which alerts no fault of the simulator can
sources     where alerts are seen: Alertmanager, Grafana, a webhook of the drill's own
faults      the simulator, whose rules are put back in the end
traffic     runs that meet a fault, and runs that do not
play        the loop, and the judgement
command     what the command line calls
"""
