# Installs the agent as a scheduled task that starts with the machine. In an elevated PowerShell, in a folder that holds
# regatta.exe, regatta-worker.exe and the files of deploy/windows:
#
#   .\install-agent.ps1 -Coordinator https://bench.example:7600 -Ca .\ca.crt -TokenFile .\agent.token
#
# Remove it with: Unregister-ScheduledTask -TaskName RegattaAgent

param(
    [Parameter(Mandatory = $true)][uri]$Coordinator,
    [string]$Ca,
    [string]$TokenFile,
    [string]$Program = "$env:ProgramFiles\Regatta",
    [string]$Data = "$env:ProgramData\Regatta"
)
$ErrorActionPreference = 'Stop'

New-Item -ItemType Directory -Force -Path $Program, $Data | Out-Null
Copy-Item -Force .\regatta.exe, .\regatta-worker*.exe $Program
# Only the service's user, the system and administrators get at the token and the spool.
icacls $Data /inheritance:r /grant:r '*S-1-5-19:(OI)(CI)M' '*S-1-5-18:(OI)(CI)F' '*S-1-5-32-544:(OI)(CI)F' | Out-Null

$arguments = "agent --home `"$Data`" --coordinator $Coordinator"
if ($Ca) {
    Copy-Item -Force $Ca "$Data\ca.crt"
    $arguments += " --ca `"$Data\ca.crt`""
}
if ($TokenFile) {
    Copy-Item -Force $TokenFile "$Data\agent.token"
    $arguments += " --token-file `"$Data\agent.token`""
}

[xml]$task = Get-Content "$PSScriptRoot\regatta-agent.xml"
$task.Task.Actions.Exec.Command = "$Program\regatta.exe"
$task.Task.Actions.Exec.Arguments = $arguments
$task.Task.Actions.Exec.WorkingDirectory = $Data
Register-ScheduledTask -TaskName RegattaAgent -Xml $task.OuterXml -Force | Out-Null
Start-ScheduledTask -TaskName RegattaAgent
Get-ScheduledTask -TaskName RegattaAgent
