"""What people look at: the report page, the estimate before a build, the status during one."""
