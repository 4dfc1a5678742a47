# Waiting for a process in a batch script that traps signals: job.sh and data_prep.sh source it.
finish() { # finish PID: waits for the end of PID, also when signals interrupt it; its exit code
  local code
  while true; do
    wait "$1"
    code=$?
    kill -0 "$1" 2>/dev/null || break
  done
  # A signal just before the end of PID leaves the exit code unread; 127 means it was read above.
  wait "$1" 2>/dev/null
  local unread=$?
  ((unread == 127)) || code=$unread
  return "$code"
}
